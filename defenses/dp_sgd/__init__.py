"""DP-SGD: the callback for any LightningModule, the defense of this project's fleets, and their parts.

The claim, (ε, δ)-differential privacy for adding or removing one record, holds if everything below does. Each line
names the code that makes a premise true, and the test that breaks if it is false.

Every record is in a step with probability q, by itself; q, T and the divisor q·N follow from public numbers alone:
    sampling.py PoissonSteps → test_callback.py test_poisson
    sampling.py poisson_loader → test_callback.py test_rate_is_the_batch_size_over_the_records_whatever_the_remainder
    mechanism.py plan → test_callback.py test_public_size_sets_rate_divisor_and_steps
    step.py PrivateStep → test_neighbors.py test_what_is_public_does_not_tell_them_apart

A record enters a step once: a batch has one row for each index, and no index names a record again:
    records.py FitRecords.check_rows → test_sensitivity.py test_a_record_is_one_row_once
    sampling.py check_repeats → test_records.py test_records_that_are_named_again

A record's gradient depends on that record alone. In the fast way this is watched:
    checks.py Checks.compare → test_checks.py test_every_record_is_compared
    choice.py Chooser.choose → test_alone.py test_the_fastest_way_that_is_right
    watch.py Watch.gradient_ready → test_checks.py test_every_first_step_is_looked_at
    mixing.py refuse_mixing_layers → test_rules.py test_trainer_and_module
    engine.py Notes.gradients → test_engine.py test_equals_opacus_hooks
    layers/tied.py tied_gradients → test_tied.py test_a_tied_language_model_by_autograd
In the functional way, and with every record alone, by construction: state is put back, random numbers are seeded:
    alone.py Alone.gradients → test_alone.py test_gradients_are_those_of_single_records
    alone.py Alone.single → test_alone.py test_records_draw_their_own_random_numbers
    alone.py Functional.tried → test_alone.py test_what_torch_func_cannot_do_is_not_done_by_it
    rehearsal.py Rehearsal.restore → test_alone.py test_state_is_put_back_between_records

It is clipped to C; one that is not finite counts as zero:
    clipping.py Flat.factors → test_clipping.py test_clipped_norms_stay_within_the_bound
    engine.py Engine.clip → test_engine.py test_record_that_is_not_finite_counts_for_nothing
    alone.py Alone._add → test_sensitivity.py test_every_clipping_every_way
    fit.py PrivateFit._clip → test_neighbors.py test_one_record_moves_the_noised_sum_by_at_most_c

Norms, factors, sums and noise are in single precision at least, with no product rounded further:
    precision.py full_precision → test_sensitivity.py test_products_of_a_fit_do_not_follow_the_users_precision
    engine.py Engine.notes → test_sensitivity.py test_a_module_in_16_bits_trains_record_by_record

Noise of standard deviation σ·C is added once to the sum of all processes and parts of a batch, where it is written:
    step.py PrivateStep.write → test_step.py test_noise_is_written_with_the_sum
    noise.py ParameterNoise.draw → test_callback.py test_noise
    fit.py PrivateFit._write → test_physical.py test_micro_batches
    step.py PrivateStep._add_noise → test_distributed.py test_two_processes_train_what_one_does

Nothing but the noised mean reaches the module; buffers, frozen parameters and attributes follow no record:
    step.py PrivateStep._check_step → test_step.py test_gradients_may_be_changed_only_where_noise_hides_it
    watch.py StateWatch.look → test_state.py test_what_goes_into_the_file_is_refused_whether_read_or_not
    watch.py StateWatch.written → test_state.py test_weights_are_changed_by_the_optimizer_alone
    rules.py check_trainer → test_rules.py test_trainer_and_module

A step is counted when its noised mean is written, used or not, over all trainings that continue each other:
    step.py PrivateStep.write → test_manual.py test_a_gradient_that_no_step_uses_is_spent_all_the_same
    step.py PrivateStep.restore → test_callback.py test_interrupted_and_resumed_equals_uninterrupted
    callback.py DPSGD.on_save_checkpoint → test_step.py test_a_checkpoint_between_write_and_step_is_refused

Batches and noise are independent of the records and of all other fits: a key for every fit, a stream for every step:
    noise.py identities → test_keys.py test_another_fit_has_other_noise
    noise.py fit_secret → test_keys.py test_batches_follow_the_fits_own_key_too
    noise.py NoiseSource → test_noise.py test_noise_is_a_function_of_secret_model_and_step

ε is an upper bound for T such steps:
    accounting.py accounted → test_accounting.py test_published_values
    accounting.py calibrate → test_accounting.py test_calibrated_noise_spends_what_was_asked_for
    accounting.py privacy_curve → test_accounting.py test_privacy_curve_bounds_delta_from_above
    mechanism.py check_delta → test_rules.py test_trainer_and_module

Choices by numbers without noise are refused, unless a person says that these are public:
    rules.py check_choices → test_callback.py test_choices_by_a_metric_need_a_word_that_it_is_public

What is not covered is said, in words that do not depend on the records:
    mechanism.py Mechanism.claim → test_base.py test_hooks_are_those_of_the_base
    mechanism.py Mechanism.claim → test_callback.py test_statement_names_a_secret_of_the_user
    rules.py cautions → test_callback.py test_data_dependent_warnings_stay_out_of_the_statement
"""

from palisade.defenses.dp_sgd.callback import DPSGD
from palisade.defenses.dp_sgd.defense import DPSGDDefense

__all__ = ["DPSGD", "DPSGDDefense"]

"""Subjects of an evaluation that exist already: saved answers, a model file, a release, an endpoint."""

"""Distillation: one engine, from bitext to a student."""

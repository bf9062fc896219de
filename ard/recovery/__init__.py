"""Recovering quality by training: distillation, then adversarial fine-tuning."""

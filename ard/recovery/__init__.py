"""Quality regained by training: distillation, then adversarial fine-tuning."""

"""What does a prefix, a soft prompt or a LoRA do inside its model? The numbers and the words."""

"""Training: the loss, the views of a text, the recipes, and tuning with a guard."""

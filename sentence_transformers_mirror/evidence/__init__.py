"""Evidence: is a model better, with labels and without?"""

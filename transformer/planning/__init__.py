"""What a training run needs and how long it takes on chips that are not here."""

"""`experiments.language_model` with AdamW in place of Muon, for reference plans.

PYTHONPATH=tests/planning python -m language_model_adamw plan --topology=v5e:16x16
"""

from experiments import language_model
from transformer import main
from transformer.training import declaration, optimizers

experiment = declaration.fill(language_model.experiment, optimizer=optimizers.adamw)

if __name__ == "__main__":
    main.main(experiment)

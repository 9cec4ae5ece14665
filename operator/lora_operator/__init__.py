"""The lora-operator: turns LoraFineTune resources into published and verified adapters."""

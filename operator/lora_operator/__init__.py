"""The lora-operator: turns LoraFineTune resources into proven adapters."""

"""From a trained adapter to a published and proven one."""

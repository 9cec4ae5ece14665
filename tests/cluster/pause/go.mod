module lora-operator.io/tests/cluster/pause

go 1.24

"""The blocks of a fine-tune that users type, a module each.

Defined once: the operator builds the CRD from these models and the trainer reads them in its run file. Names are those
of Unsloth, PEFT and TRL in camelCase. A number that is unset is chosen by the trainer, which reports what it chose.
`json_schema_extra` carries what only the Kubernetes schema can say (CEL rules, list types).
"""

"""The tables and figures of a study, from what the ledger holds."""

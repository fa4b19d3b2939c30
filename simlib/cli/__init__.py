"""The command line: `parser` has the verbs, `main` the exit status, the other modules what each verb does."""

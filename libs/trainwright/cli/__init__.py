"""The `trainwright` command. One module per group of commands; what takes long to import is imported when used."""

"""The stages, one a file, named after what they do. `config.default_stages` puts them in order."""

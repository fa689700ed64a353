"""What calls cost and how they went: observers, and what they are told. Each of its files says which extra it needs."""

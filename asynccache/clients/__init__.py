"""How the clients of known SDKs are wrapped: one file a package, named after it, loaded when one of
its clients is wrapped. Each has `wrap(cache, client, name)`, which returns the wrapped client, or
None for something of that package which is an ordinary function."""

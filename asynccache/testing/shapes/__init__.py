"""How each API words an answer: one file per wire format, pure. `SimulatedProvider` and `FakeUpstream` share them."""

"""The array backends that come with lepton_ref, each found through its entry point."""

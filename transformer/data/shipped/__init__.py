"""The data sets shipped with the project; see provenance.json of each."""

MEMBERS = ("austen", "digits", "emoji", "en_pt", "winds")

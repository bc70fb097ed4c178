"""The data sets shipped with the project; see provenance.json of each."""

MEMBERS = ("austen", "digits", "emoji", "en_pt", "winds")
# The member of which a TFDS builder reads the files.
BUILDERS = {**{member: member for member in MEMBERS}, "emoji_styles": "emoji"}

"""Pages as pure functions of what a study holds: no widgets, no server, no model."""

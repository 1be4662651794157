"""Files that are written whole: artefacts and trial records."""

"""Tools of the developers; nothing here is part of the published pack."""

"""File formats, one file each: how documents become bytes, and bytes documents again. No database, no store."""

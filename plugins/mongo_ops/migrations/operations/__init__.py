"""The operations of migrations, one file each."""

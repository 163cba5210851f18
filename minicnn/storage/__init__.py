"""Files that appear completely or not at all, and what is kept in them."""

"""Side-by-side measurements of mongo-ops against bare commands and other tools: ratios, never tests."""

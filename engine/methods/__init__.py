"""What is more than a preset: ways of making images that no list of terms can say, one file each."""

"""What a surrogate becomes outside physgen."""

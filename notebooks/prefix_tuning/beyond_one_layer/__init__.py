"""Chapter "Beyond one layer": what a prefix can do to the attention of deeper layers."""

"""Chapter "Long prefixes": what more vectors buy."""

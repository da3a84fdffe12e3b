"""The package inside other frameworks, a module each; each needs an extra of its own."""

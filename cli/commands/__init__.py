"""The commands of ``milpactl``, one module per family. Each imports what it needs only when it runs."""

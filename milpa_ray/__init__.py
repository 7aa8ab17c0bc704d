"""Milpa: a nodeless cluster controller. Each pod runs on a cloud instance of its own.

This package is the domain: API types, settings, store, planners, controllers, API server and Python client.
It imports neither Ray nor boto3 nor any other top-level package of the project.
"""

__version__ = "1.0.0"

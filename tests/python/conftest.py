"""Puts this folder on the import path, for the support modules and for the folders below."""

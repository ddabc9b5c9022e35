"""Randomly mutated commands, configs and records: each must end in one clear line."""

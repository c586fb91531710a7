"""Tests of the ZStack face."""

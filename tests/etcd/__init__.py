"""Tests that start etcds of their own: how programs reach one, and what they survive."""

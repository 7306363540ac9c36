"""Tests that start an etcd."""

"""The CNI plug-in without an agent: the same function that the agent runs, in a process of its own."""

"""The interactive console: configure, launch, watch and steer runs in a terminal."""

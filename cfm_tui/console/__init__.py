"""The interactive console: configure, launch, watch and control runs in a terminal."""

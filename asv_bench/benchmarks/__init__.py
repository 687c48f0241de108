"""What `make bench` measures, in the layout of airspeed velocity."""

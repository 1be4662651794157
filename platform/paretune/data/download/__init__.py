"""Official archives of public datasets: fetched, checked and unpacked, each whole or not at all."""

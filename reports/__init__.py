"""Tables, plots and the HTML page, made from stored runs; paper against measured; comparison of runs."""

"""Third step: bring a decision about. Decides nothing; doing it twice changes nothing."""

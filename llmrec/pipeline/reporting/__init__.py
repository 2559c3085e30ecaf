"""What a finished run reports, and reports of one or several run folders."""

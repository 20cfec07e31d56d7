"""What happened, for machines and people. Pure observers: they add up what they are told and never act."""

"""What scalers are told: the demand (pure), Knative's Stat, and KEDA's external scaler."""

-- An operator that serves some namespaces only writes no status of classes: a class without one is an offer.
if obj.status == nil or obj.status.conditions == nil then
  return { status = "Healthy", message = "Offered." }
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The operator has not seen this version of the class yet." }
end

local health = { status = "Progressing", message = "" }
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    health.message = condition.message
    if condition.status == "True" then
      health.status = "Healthy"
    elseif condition.reason == "ClassPaused" then
      health.status = "Suspended"
    end
  elseif condition.type == "Stalled" and condition.status == "True" then
    health.status = "Degraded"
  end
end
return health
